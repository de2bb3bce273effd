"""The room service: presence, comments, pins and drops to every viewer of a room."""
