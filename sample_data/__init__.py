"""Small picture pairs with their true transforms, and the script that rendered them."""
