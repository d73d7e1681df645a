"""The loops of the skeletons. They know no loss."""
