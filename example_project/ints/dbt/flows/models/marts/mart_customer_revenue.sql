with lines as (
    select
        lines.*,
        coalesce(products.category, 'unknown') as category
    from {{ ref('int_cart_lines') }} as lines
    left join {{ ref('stage_dummyjson__products') }} as products using (product_id)
),

favourites as (
    select user_id, category
    from lines
    group by user_id, category
    qualify row_number() over (partition by user_id order by sum(net_amount) desc, category) = 1
),

revenue as (
    select
        user_id,
        count(distinct cart_id) as carts,
        cast(sum(quantity) as integer) as units,
        sum(net_amount) as net_revenue
    from lines
    group by user_id
)

select
    revenue.user_id,
    users.username,
    users.country,
    favourites.category as favourite_category,
    revenue.carts,
    revenue.units,
    revenue.net_revenue,
    {{ built_at() }} as built_at
from revenue
inner join favourites using (user_id)
left join {{ ref('stage_dummyjson__users') }} as users using (user_id)
