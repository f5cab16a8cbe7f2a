"""Local web page for a gallery: drop a crop and see the most similar people, with textures."""
