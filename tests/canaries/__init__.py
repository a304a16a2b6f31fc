"""Parts broken on purpose, each of which one named check must notice.

A canary changes one attribute and runs the one check that guards it. The check must fail, and say
what the canary expects: that something else breaks as well does not count. Every check passes on
the unbroken code, or the canaries would prove nothing.
"""
