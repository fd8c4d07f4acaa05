"""What a value means as tags: text, lists, numbers, scores, vectors; the types of columns that can hold them."""
