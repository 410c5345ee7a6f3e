"""What a running engine shows to those who watch it: numbers that any thread may read beside the engine's."""
