// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Signatures} from "./Signatures.sol";

/// @title The operators
/// @notice A wallet stays cold: it gives its node's key an allowance and an expiry, and takes them
/// back. What an operator locks always belongs to the wallet and returns only to it.
abstract contract Operators is Signatures {
    struct Authorisation {
        uint128 allowance;
        uint40 expiry;
    }

    /// @dev account => operator => token
    mapping(address => mapping(address => mapping(address => Authorisation))) private
        _authorisations;

    function authorise(address operator, address token, uint128 allowance, uint40 expiry) external {
        if (operator == address(0)) revert Escrow_ZeroAddress();
        _authorisations[msg.sender][operator][token] = Authorisation(allowance, expiry);
        emit Authorised(msg.sender, operator, token, allowance, expiry);
    }

    function revoke(address operator, address token) external {
        delete _authorisations[msg.sender][operator][token];
        emit Revoked(msg.sender, operator, token);
    }

    function authorisation(address account, address operator, address token)
        external
        view
        returns (uint128 allowance, uint40 expiry)
    {
        Authorisation memory given = _authorisations[account][operator][token];
        return (given.allowance, given.expiry);
    }

    /// @dev For locking money: the wallet signed, or its hot key within the allowance it was given.
    function _spend(
        address wallet,
        address hot,
        address token,
        uint256 amount,
        bytes32 digest,
        bytes calldata signature
    ) internal {
        if (!_signedByEither(wallet, hot, digest, signature)) {
            _useAllowance(wallet, hot, token, amount);
        }
    }

    function _useAllowance(address wallet, address operator, address token, uint256 amount)
        internal
    {
        Authorisation storage given = _authorisations[wallet][operator][token];
        uint128 allowance = given.expiry < block.timestamp ? 0 : given.allowance;
        if (given.expiry < block.timestamp || allowance < amount) {
            revert Escrow_NotAuthorised(wallet, operator, allowance, amount);
        }
        if (allowance != type(uint128).max) {
            given.allowance = allowance - uint128(amount); // amount <= allowance
        }
        emit AllowanceUsed(wallet, operator, token, amount);
    }
}
