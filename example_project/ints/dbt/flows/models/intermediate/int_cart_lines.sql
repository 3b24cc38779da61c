-- Who bought what: the lines of the carts with the customer of the cart.
select
    items.cart_item_id,
    items.cart_id,
    carts.user_id,
    items.product_id,
    items.quantity,
    items.gross_amount,
    items.net_amount
from {{ ref('stage_dummyjson__cart_items') }} as items
inner join {{ ref('stage_dummyjson__carts') }} as carts using (cart_id)
