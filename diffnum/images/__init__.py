"""CIFAR-10 practice: data, a feature network and distances in it, sampling many images, training."""
