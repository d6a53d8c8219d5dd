"""Published files, brought whole into a cache folder."""
