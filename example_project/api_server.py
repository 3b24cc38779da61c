"""A shop's REST API on this machine, in the shape of https://dummyjson.com, so that the example runs offline.

In a program:     with serve() as base_url: ...
From a shell:     python -m example_project.api_server --port 8000

`GET /products?limit=30&skip=0` answers `{"products": [...], "total": 120, "skip": 0, "limit": 30}`, likewise
`/carts` and `/users`; `limit=0` gives all rows. The rows are made up by `generate`, the same every time, and
no person in them exists. `generate(day=1)` is the same shop a day later: some prices changed, some carts came.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Row = dict[str, Any]
Tables = Mapping[str, list[Row]]

RESOURCES = ("products", "carts", "users", "posts")
DEFAULT_LIMIT = 30

PRODUCTS, CARTS, USERS, POSTS = 120, 80, 60, 40
NEW_CARTS_PER_DAY = 5
PRICE_CHANGES_PER_DAY = 6

CATEGORIES = {
    "kitchen": ("Kettle", "Whisk", "Teapot", "Ladle", "Toaster"),
    "garden": ("Trowel", "Planter", "Hose", "Rake", "Bird Bath"),
    "lighting": ("Desk Lamp", "Lantern", "Spotlight", "Night Light", "Candle Holder"),
    "stationery": ("Notebook", "Fountain Pen", "Stapler", "Folder", "Ruler"),
    "outdoor": ("Tent", "Backpack", "Flask", "Compass", "Hammock"),
    "toys": ("Kite", "Puzzle", "Yo-Yo", "Marble Run", "Spinning Top"),
}
LINES = ("Brambleway", "Oskavik", "Tindral", "Quillon", "Marrowby", "Fennimoor")
DEPARTMENTS = ("Engineering", "Legal", "Marketing", "Sales", "Support")
CITIES = ("Northmere", "Eastholm", "Southwick Bay", "Westerley")
COMMENTS = ("Would buy again.", "Does what it says.", "Smaller than expected.", "Broke after a week.")
DATE = "2025-01-15T08:00:00.000Z"


def generate(day: int = 0) -> dict[str, list[Row]]:
    """Make up the rows of the shop as they are after `day` days. The same day gives the same rows, always."""
    products = [_product(number) for number in range(1, PRODUCTS + 1)]
    carts = [_cart(number, products) for number in range(1, CARTS + 1)]
    for today in range(1, day + 1):
        chance = random.Random(f"day-{today}")
        for product in chance.sample(products, PRICE_CHANGES_PER_DAY):
            product["price"] = round(product["price"] * chance.uniform(0.8, 1.25), 2)
        first = len(carts) + 1
        carts += [_cart(number, products) for number in range(first, first + NEW_CARTS_PER_DAY)]
    users = [_user(number) for number in range(1, USERS + 1)]
    posts = [_post(number) for number in range(1, POSTS + 1)]
    return {"products": products, "carts": carts, "users": users, "posts": posts}


def _product(number: int) -> Row:
    chance = random.Random(f"product-{number}")
    category = chance.choice(list(CATEGORIES))
    kind = chance.choice(CATEGORIES[category])
    line = chance.choice(LINES)
    title = f"{line} {kind} {number}"
    slug = title.lower().replace(" ", "-")
    stock = chance.choice((0, 3, 12, 40, 75, 98))
    product: Row = {
        "id": number,
        "title": title,
        "description": f"The {kind.lower()} of the {line} series, made for this example.",
        "category": category,
        "price": round(chance.uniform(2, 250), 2),
        "discountPercentage": round(chance.uniform(0, 20), 2),
        "rating": round(chance.uniform(2.5, 5), 2),
        "stock": stock,
        "tags": [category, kind.lower()],
        "brand": line,
        "sku": f"{category[:3]}-{line[:3]}-{number:03}".upper(),
        "weight": chance.randint(1, 10),
        "dimensions": {side: round(chance.uniform(5, 30), 2) for side in ("width", "height", "depth")},
        "warrantyInformation": f"{chance.choice((1, 2, 5))} year warranty",
        "shippingInformation": f"Ships in {chance.choice((1, 2, 3))} weeks",
        "availabilityStatus": "Out of Stock" if not stock else "Low Stock" if stock < 10 else "In Stock",
        "reviews": [_review(chance) for _ in range(chance.randint(0, 3))],
        "returnPolicy": f"{chance.choice((7, 30, 90))} days return policy",
        "minimumOrderQuantity": chance.randint(1, 20),
        "meta": {
            "createdAt": DATE,
            "updatedAt": DATE,
            "barcode": f"{chance.randrange(10**12):013}",
            "qrCode": "https://shop.example.com/qr-code.png",
        },
        "images": [f"https://shop.example.com/{slug}/1.webp"],
        "thumbnail": f"https://shop.example.com/{slug}/thumbnail.webp",
    }
    if chance.random() < 0.4:
        del product["brand"]  # as in the real service: not every product has one
    return product


def _post(number: int) -> Row:
    chance = random.Random(f"post-{number}")
    category = chance.choice(list(CATEGORIES))
    return {
        "id": number,
        "title": f"What to know of {category}, part {number}",
        "body": chance.choice(COMMENTS),
        "tags": [category],
        "reactions": {"likes": chance.randint(0, 200), "dislikes": chance.randint(0, 20)},
        "views": chance.randint(10, 5000),
        "userId": chance.randint(1, USERS),
    }


def _review(chance: random.Random) -> Row:
    reviewer = f"user-{chance.randint(1, USERS):03}"
    return {
        "rating": chance.randint(1, 5),
        "comment": chance.choice(COMMENTS),
        "date": DATE,
        "reviewerName": reviewer,
        "reviewerEmail": f"{reviewer}@example.com",
    }


def _cart(number: int, products: list[Row]) -> Row:
    chance = random.Random(f"cart-{number}")
    chosen = chance.choices(products, k=chance.randint(1, 6))
    items = [_cart_item(product, chance.randint(1, 5)) for product in chosen]
    return {
        "id": number,
        "products": items,
        "total": round(sum(item["total"] for item in items), 2),
        "discountedTotal": round(sum(item["discountedTotal"] for item in items), 2),
        "userId": chance.randint(1, USERS),
        "totalProducts": len(items),
        "totalQuantity": sum(item["quantity"] for item in items),
    }


def _cart_item(product: Row, quantity: int) -> Row:
    total = round(product["price"] * quantity, 2)
    return {
        "id": product["id"],
        "title": product["title"],
        "price": product["price"],
        "quantity": quantity,
        "total": total,
        "discountPercentage": product["discountPercentage"],
        "discountedTotal": round(total * (1 - product["discountPercentage"] / 100), 2),
        "thumbnail": product["thumbnail"],
    }


def _user(number: int) -> Row:
    chance = random.Random(f"user-{number}")
    name = f"user-{number:03}"
    age = chance.randint(19, 75)
    return {
        "id": number,
        "firstName": "User",
        "lastName": f"{number:03}",
        "age": age,
        "gender": chance.choice(("female", "male")),
        "email": f"{name}@example.com",
        "phone": f"+00 000-000-{number:04}",
        "username": name,
        "birthDate": f"{2025 - age}-{chance.randint(1, 12)}-{chance.randint(1, 28)}",
        "image": f"https://shop.example.com/icon/{name}/128",
        "bloodGroup": chance.choice(("A+", "B-", "O+")),
        "height": round(chance.uniform(150, 200), 2),
        "weight": round(chance.uniform(50, 100), 2),
        "eyeColor": chance.choice(("Blue", "Brown", "Green")),
        "hair": {
            "color": chance.choice(("Black", "Brown", "White")),
            "type": chance.choice(("Curly", "Straight")),
        },
        "address": _address(chance),
        "university": f"University of {chance.choice(CITIES)}",
        "company": {
            "department": chance.choice(DEPARTMENTS),
            "name": f"Company {chance.randint(1, 12):02}",
            "title": "Employee",
            "address": _address(chance),
        },
        "role": chance.choices(("user", "moderator", "admin"), weights=(8, 1, 1))[0],
    }


def _address(chance: random.Random) -> Row:
    return {
        "address": f"{chance.randint(1, 99)} Example Street",
        "city": chance.choice(CITIES),
        "state": "Example State",
        "stateCode": "EX",
        "postalCode": f"{chance.randrange(100_000):05}",
        "coordinates": {"lat": round(chance.uniform(-90, 90), 6), "lng": round(chance.uniform(-180, 180), 6)},
        "country": "Exampleland",
    }


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Read rows to serve from `products.json`, `carts.json` and `users.json`, each one JSON list."""
    return {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in RESOURCES}


def answer(tables: Tables, target: str) -> tuple[int, Row]:
    """Answer `GET <target>`: the HTTP status and the JSON body."""
    url = urlsplit(target)
    resource = url.path.strip("/")
    if resource not in tables:
        return 404, {"message": f"Path '{url.path}' not found"}
    query = parse_qs(url.query)
    numbers: dict[str, int] = {}
    for name, default in (("limit", DEFAULT_LIMIT), ("skip", 0)):
        text = query.get(name, [str(default)])[-1]
        if not text.isdecimal():
            return 400, {"message": f"Invalid '{name}' - must be a number"}
        numbers[name] = int(text)
    rows, skip = tables[resource], numbers["skip"]
    page = rows[skip : skip + (numbers["limit"] or len(rows))]
    return 200, {resource: page, "total": len(rows), "skip": skip, "limit": len(page)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open: a load asks for many pages
    wbufsize = -1  # head and body leave in one packet
    server: _Server

    def do_GET(self) -> None:
        status, body = answer(self.server.tables, self.path)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.verbose:
            super().log_message(format, *args)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tables: Tables, port: int, verbose: bool, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.host = host
        self.tables = tables
        self.verbose = verbose

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hung up is no news
            super().handle_error(request, client_address)


@contextmanager
def serve(tables: Tables | None = None, *, port: int = 0) -> Iterator[str]:
    """Serve rows on loopback while the block runs, by default those of `generate()`; give the base URL.

    `tables` is read anew for each request, so a program may change it between two loads.
    """
    server = _Server(generate() if tables is None else tables, port, verbose=False)
    # Waiting briefly for shutdown is what `poll_interval` bounds: half a second by default.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.base_url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the example's shop on this machine.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container, for the others to reach it")
    parser.add_argument("--rows", type=Path, metavar="DIR", help="a folder with products.json and so on")
    parser.add_argument("--day", type=int, default=0, help="the generated shop after so many days")
    options = parser.parse_args()
    tables = read_rows(options.rows) if options.rows else generate(options.day)
    server = _Server(tables, options.port, verbose=True, host=options.host)
    print(server.base_url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
