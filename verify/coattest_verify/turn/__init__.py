"""One member's whole part in a quorum that lives in git: ``verify turn``.

``settings`` says where the main branch is, ``repository`` fetches and pushes it in a bare repository of this
user's own, ``objects`` writes commits there, ``steps`` does what is asked of the member in a folder that was
made from the fetched commit, and ``loop`` goes on until nothing is left to publish.
"""
