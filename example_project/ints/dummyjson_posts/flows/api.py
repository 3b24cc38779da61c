"""Extract and load: the posts of dummyjson, by a pipeline of dlt."""

import sys
from pathlib import Path

import dlt
from prefect import flow

from lineage_orch import mark_updated, produces_source
from lineage_orch.loads.dlt import sources_of

# A flow is also loaded by its path ("api.py:export"), from any folder: then nothing else finds the monorepo.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from ints.common.rest_api import base_url, fetch_all, open_session, raw_dir


@produces_source("blog.posts")
@flow(name="dummyjson-posts")
def export() -> int:
    """Load all posts of the API; return how many there are."""
    url = f"{base_url()}/posts"
    with open_session(url) as session:
        posts = fetch_all(session, url, key="posts")
    folder = raw_dir()
    pipeline = dlt.pipeline(
        "dummyjson_posts",
        pipelines_dir=str(folder / ".dlt"),
        destination=dlt.destinations.filesystem(f"file://{folder}", layout="{table_name}.{load_id}.{ext}"),
        dataset_name="blog",
    )
    load_info = pipeline.run(posts, table_name="posts", write_disposition="replace", loader_file_format="jsonl")
    mark_updated(*sources_of(load_info, source_name="blog", tables=["posts"]))
    return len(posts)


if __name__ == "__main__":
    export()
