select order_id, customer_id, cast(amount as double) as amount, get_current_timestamp() as built_at
from {{ source('crm', 'orders') }}
