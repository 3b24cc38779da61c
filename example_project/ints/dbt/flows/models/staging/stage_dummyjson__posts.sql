select
    cast(id as integer) as post_id,
    cast(user_id as integer) as user_id,
    title,
    cast(views as integer) as views,
    {{ built_at() }} as built_at
from {{ source('blog', 'posts') }}
