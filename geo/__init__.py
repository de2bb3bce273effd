"""Where stores and viewers are."""
