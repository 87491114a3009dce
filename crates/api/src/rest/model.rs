//! Bodies of REST, named as the module's documentation names them: a file per resource.

mod delivery;
mod endpoint;
mod replay;

pub(crate) use self::delivery::{DeliveryBody, DeliveryDetailBody, DeliveryList, Status};
pub(crate) use self::endpoint::{CreatedBody, EndpointBody, EndpointList, RotatedBody, Scheme};
pub(super) use self::replay::{CountBody, NewReplayBody, ReplayBody};
