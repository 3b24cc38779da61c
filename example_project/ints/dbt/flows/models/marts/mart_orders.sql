{{ config(materialized='incremental', unique_key='cart_id') }}
-- Every cart that was ever seen, as it was last. Only new and changed carts are written, so built_at says when
-- a cart last changed.
with orders as (
    select cart_id, user_id, line_count, quantity, gross_amount, net_amount
    from {{ ref('stage_dummyjson__carts') }}
    {% if is_incremental() %}
    except
    select cart_id, user_id, line_count, quantity, gross_amount, net_amount
    from {{ this }}
    {% endif %}
)

select
    *,
    {{ built_at() }} as built_at
from orders
