"""Everything that knows a data set: items and captions, benchmarks and their official files, judged queries."""
