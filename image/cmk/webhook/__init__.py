"""The admission webhook: gives a pod that asks for cores what it needs to use them."""
