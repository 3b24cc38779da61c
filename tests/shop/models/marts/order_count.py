import os
import time


def model(dbt, session):
    """Counts the orders, and takes its time when a test says so."""
    orders = dbt.ref("stg_orders")
    time.sleep(float(os.environ.get("SHOP_SLOW", "0")))
    return orders.aggregate("count(*) as orders")
