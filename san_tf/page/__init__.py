"""A local web page for a gallery: drop a crop, see who is most alike, and what the network sees of them."""
