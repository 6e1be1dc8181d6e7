"""The page of the service at `/`: the state of the host for people, and a chat.

`snapshot` takes what the page shows from the host, `view` puts it into words (pure), and `rendering` makes HTML of the
words. The HTML is complete without JavaScript. The script of the page (`neuron.js`) asks for the HTML of the state
again and again, and takes over what has changed. So every number is put into words in one place.
"""
