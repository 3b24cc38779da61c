select
    users.user_id,
    users.username,
    count(posts.post_id) as posts,
    cast(coalesce(sum(posts.views), 0) as integer) as views,
    {{ built_at() }} as built_at
from {{ ref('stage_dummyjson__users') }} as users
left join {{ ref('stage_dummyjson__posts') }} as posts using (user_id)
group by users.user_id, users.username
