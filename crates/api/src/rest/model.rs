//! Bodies of REST, named as the module's documentation names them: a file per resource.

mod delivery;
mod endpoint;
mod replay;

pub(super) use self::delivery::{DeliveryBody, DeliveryDetailBody, DeliveryList, Status};
pub(super) use self::endpoint::{CreatedBody, EndpointBody, EndpointList, RotatedBody, Scheme};
pub(super) use self::replay::{CountBody, NewReplayBody, ReplayBody};
