select
    users.department,
    count(distinct users.user_id) as customers,
    count(*) as carts,
    sum(carts.net_amount) as net_spend,
    {{ built_at() }} as built_at
from {{ ref('stage_dummyjson__users') }} as users
inner join {{ ref('stage_dummyjson__carts') }} as carts using (user_id)
group by users.department
