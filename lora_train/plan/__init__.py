"""What a run will be, before it begins: its steps, its buckets, and about how much memory and time it takes."""
