"""What a person sees of an answer: one HTML file, one page, saliency."""
