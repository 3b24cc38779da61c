select
    cast(json ->> 'id' as integer) as product_id,
    json ->> 'title' as title,
    json ->> 'category' as category,
    json ->> 'brand' as brand,
    json ->> 'sku' as sku,
    cast(json ->> 'price' as decimal(12, 2)) as price,
    cast(json ->> 'discountPercentage' as double) as discount_percentage,
    cast(json ->> 'rating' as double) as rating,
    cast(json ->> 'stock' as integer) as stock,
    json ->> 'availabilityStatus' as availability_status,
    cast(json ->> '$.dimensions.width' as double) as width,
    cast(json ->> '$.dimensions.height' as double) as height,
    cast(json ->> '$.dimensions.depth' as double) as depth,
    cast(json -> 'tags' as varchar[]) as tags,
    cast(coalesce(json_array_length(json -> 'reviews'), 0) as integer) as review_count,
    {{ built_at() }} as built_at
from {{ source('external_sources', 'raw_products') }}
