"""How feature maps are compared: at which places, by which relation, with what weight over the steps."""
