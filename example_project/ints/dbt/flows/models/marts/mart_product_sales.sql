with sales as (
    select
        product_id,
        count(distinct cart_id) as cart_count,
        cast(sum(quantity) as integer) as units_sold,
        sum(gross_amount) as gross_sales,
        sum(net_amount) as net_sales
    from {{ ref('int_cart_lines') }}
    group by product_id
)

select
    sales.product_id,
    products.title,
    products.category,
    products.price,
    products.stock,
    sales.cart_count,
    sales.units_sold,
    sales.gross_sales,
    sales.net_sales,
    {{ built_at() }} as built_at
from sales
left join {{ ref('stage_dummyjson__products') }} as products using (product_id)
