"""What the JSON of replays says, as tables, as sentences, and as a page."""
