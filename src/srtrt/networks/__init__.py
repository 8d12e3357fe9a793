"""Networks: the generator, the discriminator and VGG19 features."""
