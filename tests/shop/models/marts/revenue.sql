select customers.name, sum(orders.amount) as revenue, get_current_timestamp() as built_at
from {{ ref('stg_customers') }} as customers
join {{ ref('paid_orders') }} as orders using (customer_id)
group by all
