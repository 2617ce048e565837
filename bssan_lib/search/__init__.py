"""Search in large galleries: a shortlist by one vector an image, then an exact rerank by attention."""
