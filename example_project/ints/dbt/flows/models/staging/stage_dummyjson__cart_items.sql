-- One row per line of a cart. The same product can be on two lines, so the line's number is part of the key.
with lines as (
    select
        cast(json ->> 'id' as integer) as cart_id,
        generate_subscripts(cast(json -> 'products' as json[]), 1) as line_number,
        unnest(cast(json -> 'products' as json[])) as item
    from {{ source('external_sources', 'raw_carts') }}
)

select
    cart_id || '-' || line_number as cart_item_id,
    cart_id,
    cast(line_number as integer) as line_number,
    cast(item ->> 'id' as integer) as product_id,
    cast(item ->> 'quantity' as integer) as quantity,
    cast(item ->> 'price' as decimal(12, 2)) as unit_price,
    cast(item ->> 'total' as decimal(14, 2)) as gross_amount,
    cast(item ->> 'discountedTotal' as decimal(14, 2)) as net_amount,
    {{ built_at() }} as built_at
from lines
