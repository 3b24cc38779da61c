select
    cast(json ->> 'id' as integer) as cart_id,
    cast(json ->> 'userId' as integer) as user_id,
    cast(json ->> 'totalProducts' as integer) as line_count,
    cast(json ->> 'totalQuantity' as integer) as quantity,
    cast(json ->> 'total' as decimal(14, 2)) as gross_amount,
    cast(json ->> 'discountedTotal' as decimal(14, 2)) as net_amount,
    {{ built_at() }} as built_at
from {{ source('external_sources', 'raw_carts') }}
