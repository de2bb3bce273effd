"""What every package may import; imports none of ours."""
