"""Everything that publishes a generation: build, backfill, serve another model, roll back."""
