import os
import time


def model(dbt, session):
    """Counts the orders, and takes its time when a test says so: some seconds, or while a file is there."""
    orders = dbt.ref("stg_orders")
    time.sleep(float(os.environ.get("SHOP_SLOW", "0")))
    until = time.monotonic() + 60
    while os.path.exists(os.environ.get("SHOP_WAIT", "")) and time.monotonic() < until:
        time.sleep(0.05)
    return orders.aggregate("count(*) as orders")
