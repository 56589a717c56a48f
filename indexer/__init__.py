"""The gallery on disk: `storage` (file formats), `writing` (build, backfill, serve) and `reading` (search)."""
