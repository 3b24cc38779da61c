{{ config(event_time='reviewed_at') }}
-- One row per review of a product.
with reviews as (
    select
        cast(json ->> 'id' as integer) as product_id,
        unnest(cast(json -> 'reviews' as json[])) as review
    from {{ source('external_sources', 'raw_products') }}
)

select
    product_id,
    cast(review ->> 'rating' as integer) as rating,
    cast(review ->> 'date' as timestamp) as reviewed_at,
    {{ built_at() }} as built_at
from reviews
