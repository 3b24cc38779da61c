select
    department,
    cast(target as integer) as target,
    {{ built_at() }} as built_at
from {{ source('finance', 'targets') }}
