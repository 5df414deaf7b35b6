"""Files from elsewhere: fetched with resumption, and checked before they take their place."""
