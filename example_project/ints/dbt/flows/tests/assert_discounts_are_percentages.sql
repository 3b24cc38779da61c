-- A discount outside of 0 to 100 percent is a fault of the source: show the rows.
select product_id, discount_percentage
from {{ ref('stage_dummyjson__products') }}
where discount_percentage not between 0 and 100
