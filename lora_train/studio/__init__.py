"""From a folder of pictures to a set worth training on."""
