"""What runs beside helm: the webhook's certificate, made and put in place by hooks and looked after in between."""
