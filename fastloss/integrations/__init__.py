"""fastloss in the place of other libraries' losses: one file a library, which is imported when it is asked for.

Each has an ``apply()`` that looks at the installed version first, and raises
:class:`~fastloss.integrations.rebinding.VersionError` and changes nothing where it does not fit. What ``apply()``
returns undoes it: by ``remove()``, or at the end of a ``with`` block.
"""
