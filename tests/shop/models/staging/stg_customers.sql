select customer_id, name, get_current_timestamp() as built_at
from {{ source('crm', 'customers') }}
