"""The first step: from pictures to planes, and to what is compared of them.

`intake` makes a `plane` of what a caller has; `aside` finds what has to be set aside, for it would hold two pictures
together (`surround`, `gaps`, `overlays`, `standing`); `levels` keeps what is compared at each reduction, by
`appearance`.
"""
