"""Who gets which coupon, once; and who redeems it."""
