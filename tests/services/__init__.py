"""Services, images, the way out and secrets, between real nodes in processes of their own."""
