"""What a plan does to each node, said before it is done; losses are refused unless somebody allows them."""
