"""An ensemble as one file: how it is made, how it is opened."""
